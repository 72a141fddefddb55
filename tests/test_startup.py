"""`latent list` answers at once."""

import os
import subprocess
import sys

BUDGET_SECONDS = 0.25


def test_list_is_quick_and_imports_no_torch():
    code = (
        "import os, sys\n"
        "sys.argv = ['latent', 'list']\n"
        "from _latent_launcher import main\n"
        "code = main()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "used = os.times()\n"
        "sys.stderr.write(f'CPU {used.user + used.system}')\n"
        "sys.exit(code)\n"
    )
    seconds = []
    for _ in range(5):  # the least of five: the first one may write bytecode, and other tests run beside this one
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
        assert "rl/td-jepa" in done.stdout
        seconds.append(float(done.stderr.rpartition("CPU ")[2]))
    assert min(seconds) <= BUDGET_SECONDS, seconds
