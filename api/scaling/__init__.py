"""The number of workers: observe (`observation`), decide (`policy`), act (`actuators`); `autoscaler` does the three.

The reasons are in docs/decisions/0008-autoscale.md.
"""
