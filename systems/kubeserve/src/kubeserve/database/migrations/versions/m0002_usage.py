"""Usage by the minute, and limits of keys and deployments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    for table in ("keys", "deployments"):
        op.add_column(table, sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.create_table(
        "usage",
        sa.Column("deployment_id", sa.String(length=36), nullable=False),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.String(length=16), nullable=False),
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("predictions", "errors", "rows", "busy", "replicas")
        ),
        sa.PrimaryKeyConstraint("deployment_id", "minute", "bucket", name=op.f("pk_usage")),
    )
    op.create_index(op.f("ix_usage_owner_id_minute"), "usage", ["owner_id", "minute"], unique=False)
    op.create_index(op.f("ix_usage_minute"), "usage", ["minute"], unique=False)
