"""The tests."""

import os

# Must be set before torch is imported. Its threads otherwise spin while they wait for one another, which makes tests
# several times slower if other programs, or other threads of a test, need the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
