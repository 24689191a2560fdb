"""The page: HTML without anybody's data, and modules that ask the API for it. It has no rights of its own.

`add_pages` adds it to the application of the API. Scripts and styles come from here alone (Content-Security-Policy).
"""

from kubeserve.web.pages import add_pages

__all__ = ["add_pages"]
