"""Django's SQLite backend with BEGIN IMMEDIATE, so that the timeout holds for transactions that read before they write.

A deferred transaction that turns from reading to writing fails at once with "database is locked" when
another process has written meanwhile; SQLite does not wait then, whatever the timeout.
"""

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params):
        connection = super().get_new_connection(conn_params)
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.execute("PRAGMA synchronous=NORMAL").close()
        return connection

    def _start_transaction_under_autocommit(self):
        self.cursor().execute("BEGIN IMMEDIATE")
