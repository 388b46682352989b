"""Alembic's entry: runs the migrations on the connection the app hands over, or on the one named by `-x url=...`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from app.db.tables import metadata


def run(connection: Connection) -> None:
    """Runs on one connection; SQLite alters tables by copying them (batch)."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_by_command_line() -> None:
    """`alembic -x url=postgresql+psycopg://... upgrade head`."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit("Say which database: alembic -x url=sqlite:///.innerloop/innerloop.db ...")
    engine = create_engine(str(url))
    with engine.begin() as connection:
        run(connection)


handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    run_by_command_line()
