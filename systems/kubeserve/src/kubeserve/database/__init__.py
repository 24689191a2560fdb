"""The platform's memory: SQL in SQLite, for one machine, or in PostgreSQL.

What a transaction wrote is there as a whole or not at all, whatever dies. A database that is away is an
UnavailableError, and calls succeed again when it is back. `tables` says what is kept, `migrations` how it came to be.
"""

from kubeserve.database.engine import Database, open_database
from kubeserve.database.installation import name_of_installation
from kubeserve.database.lease import Lease

__all__ = ["Database", "Lease", "name_of_installation", "open_database"]
