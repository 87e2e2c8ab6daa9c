"""Lists of very many rows: pages without counting all of them, and the few values that a column has."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.db import connection, models
from django.utils.functional import cached_property


class CappedPaginator(Paginator):
    """Pages of the first rows that were found; how many there are is counted up to a limit, at which a search is of more use."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.MOST)

    @cached_property
    def _counted(self) -> int:
        # Without an order the database can stop at the limit.
        return self.object_list.order_by()[: self.MOST + 1].count()

    @property
    def words(self) -> str:
        """The number, or that there are more than can be paged through."""
        return f"more than {self.MOST:,}" if self._counted > self.MOST else f"{self._counted}"


def distinct(model: type[models.Model], column: str, most: int = 100) -> list[str]:
    """The values other than "" of an indexed text column, sorted, in one query that reads no more rows than there are values.

    SELECT DISTINCT would read all rows: no database that Django knows skips through an index by itself.
    """
    quote = connection.ops.quote_name
    table, name = quote(model._meta.db_table), quote(model._meta.get_field(column).column)
    sql = (
        f"WITH RECURSIVE found(value) AS (SELECT MIN({name}) FROM {table} WHERE {name} > ''"
        f" UNION ALL SELECT (SELECT MIN({name}) FROM {table} WHERE {name} > value) FROM found WHERE value IS NOT NULL)"
        f" SELECT value FROM found WHERE value IS NOT NULL LIMIT {int(most)}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [value for (value,) in cursor.fetchall()]
