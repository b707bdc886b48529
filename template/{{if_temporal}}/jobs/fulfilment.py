"""A saga: reserve, charge, ship, with a person's consent above an amount; what was done is undone if it ends otherwise.

Workflow code is replayed: after a restart it runs again from its start, and is given the recorded answers of its steps.
So it asks no clock, no random number and no network; what does is a job in orders.py.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():  # else every workflow would load its own copy of them
    from ..runtime import JobWorkflow, workflow_job
    from .orders import Order, Refusal, Shipment, process_order, refund_order, release_stock, reserve_stock, ship_order

CONSENT_ABOVE = 100_000  # cents
CONSENT_WITHIN = timedelta(days=3)


@workflow.defn(name="fulfil_order")
class FulfilOrder(JobWorkflow):
    """Reserve, charge and ship an order; a large one waits for consent first."""

    @workflow.run
    async def run(self, order: Order) -> Shipment | Refusal:
        """A step that fails for good waits as a dead letter: replay goes on from it, discard and cancel undo all.

        An undo is registered before its step, since a step that failed may have had its effect.
        """
        if order.amount_cents > CONSENT_ABOVE:
            self.progress(stage="APPROVAL")
            decision = await self.decision("approve", timeout=CONSENT_WITHIN)
            if decision is None:
                return Refusal(order_id=order.order_id, why="nobody approved it in time")
            if not decision.approved:
                return Refusal(order_id=order.order_id, why=f"refused by {decision.by}: {decision.comment}")
        async with self.saga() as saga:
            self.progress(stage="RESERVING")
            saga.undo(release_stock, order)
            await self.step(reserve_stock, order)
            self.progress(stage="CHARGING")
            saga.undo(refund_order, order)
            await self.step(process_order, order)
            self.progress(stage="SHIPPING")
            return await self.step(ship_order, order)


fulfil_order = workflow_job(FulfilOrder.run, idempotency_key=lambda order: order.order_id)
