"""The ports over PostgreSQL. All SQL of Nereid is in this folder."""

from gateway.adapters.tables.alerts import AlertTable
from gateway.adapters.tables.clients import ClientTable
from gateway.adapters.tables.database import Database, open_database
from gateway.adapters.tables.tasks import TaskTable

__all__ = ["AlertTable", "ClientTable", "Database", "TaskTable", "open_database"]
