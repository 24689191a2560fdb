"""All of it on one machine: Valkey, door and control plane, kept running, and stopped in reverse.

`programs` lists them, for GreenScale's supervisor; `environment` builds what models run in; `folder` ends and removes.
"""
