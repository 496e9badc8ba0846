"""What people see of a run: observers of the training loop, and a picture of it afterwards.

None of the modules imports SGLang, nor PyTorch or matplotlib before there is something to write.
"""
