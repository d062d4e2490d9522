"""`python -m exp_jax.fit` is `exp-jax fit`; the command is in exp_jax/commands/fit.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.fit', run_name='__main__', alter_sys=True)
