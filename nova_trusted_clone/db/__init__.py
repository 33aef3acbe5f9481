"""The conductor's database: groups (requests for clones), clone records, attempts, freezes, evidence.

oslo.db's enginefacade over SQLAlchemy 2; sqlite, MySQL (MariaDB) and PostgreSQL. Schema changes are alembic's, in
``migrations``. Only the conductor writes. Many workers may: whatever must happen once is a unique constraint, or
an update that says what it expects to find and is looked at for having found it.
"""
