"""`python -m exp_jax.prepare` is `exp-jax prepare`; the command is in
exp_jax/commands/prepare.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.prepare', run_name='__main__', alter_sys=True)
