"""Alembic's entry: runs the migrations on the connection that it is given."""

from alembic import context

from nova_trusted_clone.db import models

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=models.Base.metadata,
    # sqlite cannot alter most things in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
