"""What runs in a tenant's environment: the standard library alone, Python 3.9 or newer, Linux.

Run by path, so that nothing of the platform's environment is importable: `ENV/bin/python -I -S -B DIR prove`, or
`zygote --socket PATH …`. `-S` because a `.pth` file of the environment is its code, too: it runs within the walls.
docs/runtime.md has the protocol.
"""
