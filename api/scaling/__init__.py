"""How many workers there are: looking, deciding (`policy`), acting, and the three together (`autoscaler`).

The reasons are in docs/decisions/0008-autoscale.md.
"""
