"""Lets a server of SGLang's fork its processes, where by itself it makes each of them import SGLang again.

Python imports this module when it starts, if the folder is in PYTHONPATH.
"""

import multiprocessing

multiprocessing.set_start_method("fork")
multiprocessing.set_start_method = lambda method, force=False: None
