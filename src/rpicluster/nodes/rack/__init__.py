"""The rack: virtual Pis on this Linux machine, booted by systemd-nspawn, with true memory limits.

`request`, `addresses`, `files` and the `*_ruleset`/`*_argv`/`*_limits` functions are pure; `host`, `base`,
`network`, `cgroups` and `machine` touch the machine; `state` remembers; `lifecycle` joins them.
"""
