"""What `scene-completion doctor` looks at: checks of an installation, each with a finding and a cure.

Checks interpret, and run in the process of the command; importing them imports nothing heavy. What may crash, hang or
be missing (ROS, numba, engines, CUDA) is tried by a probe in a process of its own.
"""
