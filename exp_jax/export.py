"""`python -m exp_jax.export` is `exp-jax export`; the command is in exp_jax/commands/export.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.export', run_name='__main__', alter_sys=True)
