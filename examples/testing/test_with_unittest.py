"""unittest, without pytest."""

import unittest

from pictures import portrait

from novita_async.testing import Simulation, SimulatorConfig


class PortraitTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.simulation = Simulation.of(SimulatorConfig.quick())
        self.client = await self.enterAsyncContext(self.simulation.client())

    async def test_a_portrait_is_bought_once(self):
        self.assertTrue((await portrait(self.client)).startswith("https://"))
        self.assertEqual(self.simulation.ledger.images, 1)


if __name__ == "__main__":
    unittest.main()
