"""Calls of a service's jobs, for type checkers: each must report every line marked wrong, and no other."""

from my_service.jobs.catalog import publish_catalog
from my_service.jobs.orders import Order, process_order, ship_order
from my_service.jobs.schedules import rebuild_index, send_digest
from my_service.runtime import Outcome


def direct(order: Order) -> str:
    process_order("42")  # wrong: another type
    print(ship_order(order).charge_id)  # wrong: that is a receipt's
    return process_order(order).charge_id


def submitted(order: Order, outcomes: list[Outcome[str]]) -> str:
    process_order.submit(order)
    process_order.submit(order=order)
    send_digest.submit()
    send_digest.submit(day="monday")
    rebuild_index.submit()
    publish_catalog.submit(outcomes, supplier="acme")
    process_order.submit("42")  # wrong: another type
    process_order.submit()  # wrong: one is missing
    process_order.submit(order, order)  # wrong: one too many
    process_order.submit(ordr=order)  # wrong: misspelt
    send_digest.submit(1)  # wrong: another type
    rebuild_index.submit(now=True)  # wrong: takes none
    publish_catalog.submit(outcomes)  # wrong: one is missing
    return process_order.submit(order).id
