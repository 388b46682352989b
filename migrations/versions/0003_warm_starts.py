"""warm starts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adaptations", sa.Column("warm_start", sa.JSON(), nullable=True))
    op.add_column("adaptations", sa.Column("start", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("adaptations", "start")
    op.drop_column("adaptations", "warm_start")
