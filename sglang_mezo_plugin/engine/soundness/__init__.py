"""What the engine would compute otherwise than the model's authors do is found here, and refused by name.

loading: tensors of the checkpoint that the engine drops; reading: weights that it keeps and does not use;
attention: windows, caps and biases of the configuration that its attention lacks; pairs: a pair at eps 0 that
is not the model.
"""
