"""Facts about machines and the environment that their processes need. Starts no part of a run; asks git and nvidia-smi.

Imports the standard library and `data_pipeline.config`, whose ConfigError a person is shown. In the probe, a program of
its own, the measuring of all-reduces loads torch.
"""
