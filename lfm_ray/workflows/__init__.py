"""What `lfm_ray.tune`, `train` and `confirm` do, whether they are called from Python or from a shell.

The functions of `lfm_ray.api` say what is asked for, and the commands parse and print; the work is here.
"""
