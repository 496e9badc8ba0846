"""Task "sst2": sentiment of a sentence, as in SST-2 of GLUE."""

from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.fields import Row, index_field, text_field

OPTIONS = (" terrible", " great")


def sst2(row: Row, where: str) -> Record:
    """Read {"sentence" or "text", "label": 0 or 1}, with the prompt of the MeZO paper's appendix for SST-2.

    "<sentence> It was terrible" for label 0, "<sentence> It was great" for label 1. UserError if not so: the
    published test split, for one, has the label -1 throughout.
    """
    sentence = text_field(row, "text" if "text" in row else "sentence", where)
    return Record(f"{sentence.strip()} It was", OPTIONS, index_field(row, "label", 2, where), where)
