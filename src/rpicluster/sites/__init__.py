"""What a cluster stands on, as the facade needs it: this machine (`local`) or nodes behind SSH (`remote`).

`site` is the Protocol that both fill in; `readiness` waits until what was started answers.
"""
