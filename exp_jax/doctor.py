"""`python -m exp_jax.doctor` is `exp-jax doctor`; the command is in exp_jax/commands/doctor.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.doctor', run_name='__main__', alter_sys=True)
