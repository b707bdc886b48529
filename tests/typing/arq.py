"""Calls of a service's jobs, for type checkers: each must report every line marked wrong, and no other."""

from my_service.jobs.catalog import CatalogItem, import_item, publish_catalog
from my_service.jobs.orders import Order, process_order, refund_order, ship_order
from my_service.jobs.resources import Context
from my_service.jobs.schedules import rebuild_index, send_digest
from my_service.runtime import chain, group


async def direct(ctx: Context, order: Order) -> str:
    await process_order(order)  # wrong: no ctx
    await process_order(ctx, "42")  # wrong: another type
    print((await ship_order(ctx, order)).charge_id)  # wrong: that is a receipt's
    return (await process_order(ctx, order)).charge_id


async def submitted(order: Order) -> str:
    await process_order.submit(order)
    await process_order.submit(order=order)
    await send_digest.submit()
    await send_digest.submit(day="monday")
    await rebuild_index.submit()
    await process_order.submit("42")  # wrong: another type
    await process_order.submit()  # wrong: one is missing
    await process_order.submit(order, order)  # wrong: one too many
    await process_order.submit(ordr=order)  # wrong: misspelt
    await send_digest.submit(1)  # wrong: another type
    await rebuild_index.submit(now=True)  # wrong: takes none
    return (await process_order.submit(order)).id


async def called(order: Order) -> str:
    await process_order.call(order).submit(key="k", delay=1.5, queue="default", priority=9)
    process_order.call("42")  # wrong: another type
    process_order.call()  # wrong: one is missing
    process_order.call(ordr=order)  # wrong: misspelt
    await process_order.call(order).submit(delay="soon")  # wrong: seconds
    await process_order.call(order).submit(prioriti=9)  # wrong: misspelt
    return (await process_order.call(order).submit()).id


async def chained(order: Order) -> str:
    await chain(send_digest.call("monday"), send_digest)
    await chain(process_order.call(order), on_error=send_digest)
    process_order.call(order).undo(refund_order)  # wrong: a call, not a job
    await chain(process_order.call(order), publish_catalog)  # wrong: takes more than a result
    await chain(process_order.call(order), "ship_order")  # wrong: no job
    return await chain(process_order.call(order).undo(refund_order.call(order)), ship_order.call(order))


async def grouped(order: Order, items: list[CatalogItem]) -> str:
    parts = [import_item.call(item) for item in items]
    await group(parts, publish_catalog, "acme")
    await group(parts, publish_catalog)  # wrong: one is missing
    await group(parts, publish_catalog, supplier=1)  # wrong: another type
    await group(parts, publish_catalog, suplier="acme")  # wrong: misspelt
    await group(parts, send_digest)  # wrong: takes no outcomes
    await group([process_order.call(order)], publish_catalog, supplier="acme")  # wrong: takes the outcomes of others
    await group(items, publish_catalog, supplier="acme")  # wrong: no calls
    return await group(parts, publish_catalog, supplier="acme")
