"""`python -m exp_jax.evaluate` is `exp-jax evaluate`; the command is in
exp_jax/commands/evaluate.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.evaluate', run_name='__main__', alter_sys=True)
