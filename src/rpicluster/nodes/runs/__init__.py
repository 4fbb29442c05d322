"""Scripts that run on the manager while the control machine is away.

`on_node/run.py` stays beside one run, `on_node/tool.py` answers questions about all of them; `local` and
`remote` are the two ways to have both programs run where the manager is.
"""
