"""The mutations, and the quick tests that must notice each. Texts are exact; `test_list.py` says when one has gone stale."""

from fault_mutations import FAULTS
from more_mutations import MORE
from mutation import Mutation

_OLD_LIST = (  # the numbers are those of the first list, in its order
  Mutation(
    '01_eps_weight', 'exp_jax/diffusion/flow_matching.py', 'return jnp.square(1.0 - sigma)', 'return jnp.square(sigma)',
    'tests/diffusion/test_diffusion.py', 'weight of noise prediction (eq. 10) is sigma^2'),
  Mutation(
    '02_unipc_sign', 'exp_jax/diffusion/samplers.py', 'p_now=-a * E - half, p_before=half', 'p_now=-a * E + half, p_before=-half',
    'tests/diffusion/test_diffusion.py', 'sign of the second-order term of UniPC'),
  Mutation(
    '03_hpf_sides', 'exp_jax/metrics/motion.py', "if side == 'head' else back", "if side != 'head' else back",
    'tests/metrics/test_motion.py', 'head and camera side of head pose follow swapped'),
  Mutation(
    '04_merged_covariance', 'exp_jax/metrics/frechet.py', '(a.count * b.count / count)', '(a.count * b.count / (count - 1))',
    'tests/metrics/test_frechet.py', 'merged covariance off by one sample'),
  Mutation(
    '05_pose_correctives', 'exp_jax/heads/skinning.py',
    'feature = (rotations - jnp.eye(3, dtype=rotations.dtype)).reshape(-1)', 'feature = rotations.reshape(-1)',
    'tests/heads/test_heads.py', 'pose correctives without - I'),
  Mutation(
    '06_joints_expression', 'exp_jax/heads/skinning.py',
    "+ jnp.einsum('jce,e->jc', head.joint_expression, params.expression)",
    "- jnp.einsum('jce,e->jc', head.joint_expression, params.expression)",
    'tests/heads/test_heads.py', 'sign of the expression term of joints'),
  Mutation(
    '07_control_y', 'exp_jax/rendering/shading.py',
    'towards_viewer = normal * jnp.array([1.0, -1.0, -1.0], normal.dtype)',
    'towards_viewer = normal * jnp.array([1.0, 1.0, -1.0], normal.dtype)',
    'tests/rendering/test_shading.py', 'y of the control map points down'),
  Mutation(
    '08_winning_edge', 'exp_jax/rendering/antialias.py',
    'jnp.where(inner_is_second, 1 - t, t)', 'jnp.where(inner_is_second, t, 1 - t)',
    'tests/rendering/test_antialias.py', 'the wrong edge wins a pixel pair'),
  Mutation(
    '09_focal_ratio', 'exp_jax/controls/reenact.py',
    'motion.place[0, 2] * subject.image_size[0] / float(subject.focal[0])', 'motion.place[0, 2]',
    'tests/controls/test_reenact.py', 'translation transferred without focal lengths'),
  Mutation(
    '10_relative_rotation', 'exp_jax/controls/reenact.py',
    'rotations @ np.swapaxes(rotations[0], -1, -2)', 'np.swapaxes(rotations[0], -1, -2) @ rotations',
    'tests/controls/test_reenact.py', 'order of the relative rotation'),
  Mutation(
    '11_fade_at_the_cut', 'exp_jax/controls/maps.py', 'mask_map(fragments)], -1) * surface[..., 3:]', 'mask_map(fragments)], -1)',
    'tests/controls/test_maps.py', 'control maps do not fade at the cut through the chest'),
  Mutation(
    '12_pose_padding', 'exp_jax/systems/expportrait/generator/conditions.py',
    '[jnp.repeat(normals[:, :1], 3, axis=1), normals], axis=1)', '[normals, jnp.repeat(normals[:, -1:], 3, axis=1)], axis=1)',
    'tests/systems/expportrait/test_portrait_dit.py', 'pose encoder padded at the end of time'),
  Mutation(
    '13_mask_channels', 'exp_jax/systems/expportrait/generator/dit.py', '.at[:, 0].set(1.0)', '.at[:, 0, ..., 0].set(1.0)',
    'tests/systems/expportrait/test_portrait_dit.py', 'image-to-video mask in 1 of 4 channels'),
  Mutation(
    '14_training_target', 'exp_jax/systems/expportrait/generator/dit_task.py', 'jnp.square(v - (noise - z0))', 'jnp.square(v - (z0 - noise))',
    'tests/systems/expportrait/test_dit_task.py', 'the generator is taught the negative velocity'),
  Mutation(
    '15_accumulation', 'exp_jax/training/state.py', 'return jax.tree.map(lambda x: x / accumulate, total)', 'return total',
    'tests/training/test_state.py', 'accumulated gradients are not divided'),
  Mutation(
    '16_average_decay', 'exp_jax/training/optimizers.py', 'd * a + (1.0 - d) * p', '(1.0 - d) * a + d * p',
    'tests/training/test_state.py', 'decay of the average is 1 - d'),
  Mutation(
    '17_relief_high_pass', 'exp_jax/systems/expportrait/transfer/transfer_features.py', 'detail - smooth(detail))', 'detail)',
    'tests/systems/expportrait/test_transfer.py', 'relief is not high-passed'),
  Mutation(
    '18_mirrored_jaw', 'exp_jax/systems/expportrait/transfer/transfer_task.py', "batch['jaw'] * -across", "batch['jaw'] * across",
    'tests/systems/expportrait/test_transfer.py', 'jaw mirrored as a polar vector'),
  Mutation(
    '19_keypoint_prior', 'exp_jax/systems/liveportrait/training/losses.py',
    'squared = jnp.square(points[:, :, None] - points[:, None]).sum(-1)',
    'squared = jnp.sqrt(jnp.square(points[:, :, None] - points[:, None]).sum(-1) + 1e-12)',
    'tests/systems/liveportrait/test_training.py', 'keypoint prior on distance, not its square'),
  Mutation(
    '20_angle_bins', 'exp_jax/systems/liveportrait/networks/motion.py', '.sum(-1) - 97.5', '.sum(-1) - 99.0',
    'tests/systems/liveportrait/test_networks.py', 'angle bins shifted by 1.5 degrees'),
  Mutation(
    '21_depth_shift', 'exp_jax/fitting/offsets/energies.py',
    'scale * depth + shift - target.depth', 'scale * depth - shift - target.depth',
    'tests/fitting/test_energies.py', 'sign of the shift of depth (eq. 6b)'),
  Mutation(
    '22_recentring', 'exp_jax/fitting/offsets/disentangle.py',
    'dynamic.items()}, static + field(mean)', 'dynamic.items()}, static - field(mean)',
    'tests/fitting/test_disentangle.py', 're-centring takes the mean off the static field'),
  Mutation(
    '23_zero_mean_batch', 'exp_jax/fitting/offsets/disentangle.py', "return jnp.einsum('t,t...->...', valid, whole) + change",
    'return jnp.mean(rows, axis=0)', 'tests/fitting/test_disentangle.py', 'zero-mean term sees the frames of the batch only'),
  Mutation(
    '24_slide', 'exp_jax/fitting/coarse/relief.py', '(turned[:, c] - slide(by, c))', '(turned[:, c] + slide(by, c))',
    'tests/fitting/test_relief.py', 'sign of the slide derivative'),
  Mutation(
    '25_hair_votes', 'exp_jax/fitting/offsets/hair_shell.py', 'jnp.clip(seen - depth, ', 'jnp.clip(depth - seen, ',
    'tests/fitting/test_hair_shell.py', 'hair votes reversed'),
  Mutation(
    '26_cross_fade', 'exp_jax/diffusion/windows.py', 'share * own[:, :overlap] + (1.0 - share) * handed[None]',
    '(1.0 - share) * own[:, :overlap] + share * handed[None]',
    'tests/diffusion/test_windows.py', 'cross-fade of windows reversed'),
  Mutation(
    '27_reference_frame', 'exp_jax/systems/liveportrait/motion/driving.py',
    'first = take(driving, slice(0, 1))', 'first = take(driving, slice(-1, None))',
    'tests/systems/liveportrait/test_driving.py', "the reference frame is the driver's last"),
)  # fmt: skip

MUTATIONS = _OLD_LIST + MORE + FAULTS
