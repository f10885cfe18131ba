"""Statements that run thousands of times a second: SQLAlchemy writes them, once, and the driver runs them.

What SQLAlchemy does around a statement takes several times as long as the statement. Values go to the driver as they
are, so this is for columns of plain numbers and texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql.elements import ClauseElement


class Prepared:
    """A statement, with its parameters by name. columns: that an update sets, or an insert fills."""

    def __init__(self, statement: ClauseElement, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._written: dict[str, tuple[str, list[str] | None, dict[str, Any]]] = {}

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """All rows that it finds, as tuples."""
        text, order, fixed = self._text(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, _arranged(values, order, fixed))
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def run(self, connection: Connection, several: Sequence[Mapping[str, Any]]) -> None:
        """Once for each of the values."""
        text, order, fixed = self._text(connection)
        cursor = connection.connection.cursor()
        try:
            if len(several) == 1:
                cursor.execute(text, _arranged(several[0], order, fixed))
            else:
                cursor.executemany(text, [_arranged(values, order, fixed) for values in several])
        finally:
            cursor.close()

    def _text(self, connection: Connection) -> tuple[str, list[str] | None, dict[str, Any]]:
        dialect = connection.dialect
        found = self._written.get(dialect.name)
        if found is None:
            compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
            order = getattr(compiled, "positiontup", None)
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            found = self._written[dialect.name] = (str(compiled), order, fixed)
        return found


def _arranged(values: Mapping[str, Any], order: list[str] | None, fixed: Mapping[str, Any]) -> Any:
    """As the driver takes them: in order, or by name."""
    if order is not None:
        return tuple(values[name] if name in values else fixed[name] for name in order)
    return {**fixed, **values}
