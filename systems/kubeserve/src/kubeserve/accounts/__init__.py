"""Users, their passwords, tokens and API keys.

A password is 12 to 256 characters of any kind: length is what withstands guessing, and rules about kinds of characters
lead to passwords that are guessed first (NIST SP 800-63B). Refused are those that repeat fewer than 5 characters, and
those that hold the e-mail address. The first to register is the admin: who installs a platform registers
before it is shown to others.

Hashing is what costs here: it runs in one thread, apart from the loop. Attempts are limited per address of a caller and
per e-mail address, and those that find the thread's line full are refused at once, so that a flood costs one core at
most, and no memory. The limits are those of one process.
"""

from kubeserve.accounts.service import Accounts

__all__ = ["Accounts"]
