"""A cluster on nodes behind SSH: looked at, changed by one run of Ansible and a stream, taken away again.

`state` is the control machine's folder, `placement` says where everything stands, `manifest` what was put
there, `place` looks, `change` carries a plan out, `removal` takes all of it away and proves it.
"""
