"""`python -m exp_jax.setup` is `exp-jax setup`; the command is in exp_jax/commands/setup.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.setup', run_name='__main__', alter_sys=True)
