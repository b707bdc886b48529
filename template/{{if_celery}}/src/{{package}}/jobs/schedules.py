"""What runs when (UTC)."""

from datetime import timedelta

from ..runtime import Schedule, crontab
from .upkeep import poll_supplier, send_digest, sync_inventory

SCHEDULES = [
    Schedule("daily-digest", send_digest, crontab(hour="6", minute="0")),
    Schedule("inventory", sync_inventory, timedelta(minutes=1)),
    Schedule("supplier", poll_supplier, timedelta(minutes=1), key="supplier"),
]
