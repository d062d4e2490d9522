"""Mutations of the paper's heart that join the first list; see `mutation_list.py`."""

from mutation import Mutation

MORE = (
  Mutation(
    'shift_inverted', 'exp_jax/diffusion/flow_matching.py', 'return amount * u / (1.0 + (amount - 1.0) * u)',
    'return u / (amount - (amount - 1.0) * u)', 'tests/diffusion/test_diffusion.py',
    'shift of the noise levels toward the data instead of the noise'),
  Mutation(
    'draws_unshifted', 'exp_jax/diffusion/flow_matching.py', '0, TRAIN_STEPS) / TRAIN_STEPS, amount)',
    '0, TRAIN_STEPS) / TRAIN_STEPS, 1.0)', 'tests/diffusion/test_diffusion.py', 'noise levels of training are not shifted'),
  Mutation(
    'bell_centre', 'exp_jax/diffusion/flow_matching.py', '((t - 500.0) / 1000.0)', '((t - 600.0) / 1000.0)',
    'tests/diffusion/test_diffusion.py', 'bell weight about another time'),
  Mutation(
    'path_ends', 'exp_jax/diffusion/flow_matching.py', '(1.0 - sigma) * x0 + sigma * noise', 'sigma * x0 + (1.0 - sigma) * noise',
    'tests/diffusion/test_diffusion.py', 'data and noise swapped on the path'),
  Mutation(
    'x0_to_velocity', 'exp_jax/diffusion/flow_matching.py', '(x_sigma - x0) / jnp.maximum', '(x0 - x_sigma) / jnp.maximum',
    'tests/diffusion/test_diffusion.py', 'sign of the velocity of a predicted x0'),
  Mutation(
    'guidance_weight', 'exp_jax/diffusion/guidance.py', 'weights.get(negative, 0.0) - scale', 'weights.get(negative, 0.0) + scale',
    'tests/diffusion/test_guidance.py', 'sign of the branch without pose'),
  Mutation(
    'reference_guidance', 'exp_jax/diffusion/guidance.py', 'zip(names[:-1], names[1:], scales)',
    'zip(names[:-1], names[1:], scales[::-1])', 'tests/diffusion/test_guidance.py',
    'scales of the two guidances swapped'),
  Mutation(
    'heun_last_step', 'exp_jax/diffusion/samplers.py', 'return _result((x + (following - sigma) * v, memory), kept, per_step)',
    'return _result((x + 0.5 * (following - sigma) * v, memory), kept, per_step)', 'tests/diffusion/test_diffusion.py',
    'last step of Heun goes half the way'),
  Mutation(
    'grid_ends_above_zero', 'exp_jax/diffusion/samplers.py', 'return np.append(sigma, 0.0)', 'return np.append(sigma, sigma[-1])',
    'tests/diffusion/test_diffusion.py', 'sampling stops before the data'),
  Mutation(
    'loss_unweighted', 'exp_jax/systems/expportrait/generator/dit_task.py', 'return (weight * error).mean(), {', 'return error.mean(), {',
    'tests/systems/expportrait/test_dit_task.py::test_what_is_learnt_leads_from_noise_to_the_data', 'weight of the loss is not applied'),
  Mutation(
    'evaluation_sign', 'exp_jax/systems/expportrait/generator/dit_task.py', 'guess = noise - velocity(', 'guess = noise + velocity(',
    'tests/systems/expportrait/test_dit_task.py::test_what_is_learnt_leads_from_noise_to_the_data', 'evaluation walks away from the data'),
  Mutation(
    'pose_never_dropped', 'exp_jax/systems/expportrait/generator/dit_task.py',
    'bernoulli(for_pose, 1.0 - config.condition.drop_pose, (B,))', 'bernoulli(for_pose, config.condition.drop_pose, (B,))',
    'tests/systems/expportrait/test_dit_task.py::test_conditions_are_dropped_by_their_own_chances',
    'pose kept with the chance of being dropped'),
  Mutation(
    'drops_swapped', 'exp_jax/systems/expportrait/generator/dit_task.py',
    'bernoulli(for_reference, 1.0 - config.condition.drop_reference, (B,))',
    'bernoulli(for_reference, 1.0 - config.condition.drop_pose, (B,))',
    'tests/systems/expportrait/test_dit_task.py::test_conditions_are_dropped_by_their_own_chances',
    'reference dropped with the chance of the pose'),
  Mutation(
    'adapter_scale', 'exp_jax/systems/expportrait/generator/dit_task.py', 'config.model.lora_alpha / rank if rank',
    'rank / config.model.lora_alpha if rank',
    'tests/systems/expportrait/test_dit_task.py::test_adapters_and_pose_encoder_are_started_from_a_file',
    'scale of adapters is rank / alpha'),
  Mutation(
    'adapter_unscaled', 'exp_jax/layers/lora.py', "'b': pair['b'] * scale", "'b': pair['b']", 'tests/layers/test_lora.py',
    'scale of adapters is not applied'),
  Mutation(
    'reference_in_every_frame', 'exp_jax/systems/expportrait/generator/dit.py', 'if given == 1 and spread:', 'if given == 1:',
    'tests/systems/expportrait/test_portrait_dit.py', 'image-to-video condition in every frame'),
  Mutation(
    'reference_at_the_end', 'exp_jax/systems/expportrait/generator/dit.py', '((0, 0), (0, frames - given), (0, 0), (0, 0), (0, 0)))',
    '((0, 0), (frames - given, 0), (0, 0), (0, 0), (0, 0)))', 'tests/systems/expportrait/test_portrait_dit.py',
    'reference code in the last frame'),
  Mutation(
    'reference_kept', 'exp_jax/systems/expportrait/generator/dit.py', 'code = keep_reference * reference_code(', 'code = reference_code(',
    'tests/systems/expportrait/test_portrait_dit.py', 'reference code is not dropped for guidance'),
  Mutation(
    'hint_kept', 'exp_jax/systems/expportrait/generator/dit.py', 'y = code + keep_pose * hint[:, None]', 'y = code + hint[:, None]',
    'tests/systems/expportrait/test_portrait_dit.py', 'reference encoder is not dropped for guidance'),
  Mutation(
    'own_tokens', 'exp_jax/systems/expportrait/generator/dit.py', 'out[:, -(frames // wan.patch[0]):]', 'out[:, :frames // wan.patch[0]]',
    'tests/systems/expportrait/test_portrait_dit.py', 'prediction read from the tokens of the reference in front'),
  Mutation(
    'rotary_axes', 'exp_jax/layers/embeddings.py', '(head_width // 2 - 2 * spatial, spatial, spatial)',
    '(spatial, spatial, head_width // 2 - 2 * spatial)', 'tests/layers/test_layers.py',
    'frames and columns swapped in rotary embeddings'),
  Mutation(
    'rotary_turn', 'exp_jax/layers/embeddings.py', 'a * sin + b * cos]', 'b * cos - a * sin]', 'tests/layers/test_layers.py',
    'rotary embedding is no rotation'),
  Mutation(
    'latent_mean', 'exp_jax/networks/wan_vae.py', 'return (mean - _MEAN) / _STD', 'return (mean + _MEAN) / _STD',
    'tests/networks/test_wan_vae.py', 'sign of the mean of latents'),
  Mutation(
    'window_ramp', 'exp_jax/diffusion/windows.py', 'np.minimum(np.arange(window) + 1.0, window - np.arange(window))',
    'np.minimum(np.arange(window) + 1.0, 1.0 * window)', 'tests/diffusion/test_windows.py',
    'windows do not fade out at their end'),
  Mutation(
    'noise_index', 'exp_jax/diffusion/windows.py', '(first + jnp.arange(count))[None]', '(jnp.arange(count))[None]',
    'tests/diffusion/test_windows.py', 'noise of a frame by its place in the window'),
  Mutation(
    'ramp_reversed', 'exp_jax/diffusion/windows.py', 'return (jnp.arange(overlap) + 1.0) / (overlap + 1.0)',
    'return 1.0 - (jnp.arange(overlap) + 1.0) / (overlap + 1.0)', 'tests/diffusion/test_windows.py',
    'hand-over to the next window runs backwards'),
  Mutation(
    'ramp_of_average', 'exp_jax/training/optimizers.py', 'd = jnp.minimum(decay, (1.0 + step) / (10.0 + step))',
    'd = jnp.float32(decay)', 'tests/training/test_state.py', 'a young average does not forget its random start'),
  Mutation(
    'warm_up_rows', 'exp_jax/systems/expportrait/generator/dit_task.py',
    "jnp.concatenate([old['kernel'][:channels], new['kernel'][channels:]])",
    "jnp.concatenate([new['kernel'][:channels], old['kernel'][channels:]])",
    'tests/systems/expportrait/test_dit_task.py::test_the_warm_up_leaves_the_rows_of_the_noisy_latents_alone',
    'warm-up holds the rows of the conditions'),
  Mutation(
    'dense_weights', 'exp_jax/heads/densify.py', 'weights=jnp.asarray(lift(head.weights), jnp.float32)',
    'weights=jnp.asarray(np.asarray(head.weights)[ids[:, 0]], jnp.float32)', 'tests/heads/test_densify.py',
    'skinning weights of dense vertices from one corner'),
  Mutation(
    'laplacian_sum', 'exp_jax/heads/densify.py', 'around / jnp.maximum(dense.degree, 1)[:, None]', 'around',
    'tests/heads/test_densify.py', 'Laplacian sums the neighbours instead of averaging'),
  Mutation(
    'static_regions', 'exp_jax/fitting/offsets/static_field.py', "0.008 * region(dense, 'scalp') + 0.004 * region(dense, 'clothing')",
    "0.004 * region(dense, 'scalp') + 0.008 * region(dense, 'clothing')", 'tests/fitting/test_static_field.py',
    'hair and clothes swapped where static offsets start'),
  Mutation(
    'static_direction', 'exp_jax/fitting/offsets/static_field.py', "region(dense, 'clothing'))[:, None] * along",
    "region(dense, 'clothing'))[:, None] * -along", 'tests/fitting/test_static_field.py', 'static offsets start inward'),
  Mutation(
    'single_picture', 'exp_jax/fitting/offsets/static_field.py', "picture_face * of('face')",
    "1.0 * of('face')",
    'tests/fitting/test_offsets.py::test_the_mask_spares_eyes_and_teeth_and_little_is_moved_without_normals',
    'one picture moves the face as a clip does'),
  Mutation(
    'magnitude_weights', 'exp_jax/fitting/offsets/static_field.py', 'on_face * face + elsewhere * (1 - face)',
    'elsewhere * face + on_face * (1 - face)', 'tests/fitting/test_static_field.py',
    'magnitude weights of face and rest swapped'),
  Mutation(
    'slip', 'exp_jax/fitting/offsets/losses.py', 'slip = moved - jnp.sum(moved * along, -1, keepdims=True) * along',
    'slip = jnp.sum(moved * along, -1, keepdims=True) * along', 'tests/fitting/test_offsets.py',
    'relief along the normal penalised instead of sliding'),
  Mutation(
    'field_of_the_mean', 'exp_jax/fitting/offsets/fields.py', '*(row[name] for name in DYNAMIC)) * surface.face',
    '*(row[name] for name in DYNAMIC))', 'tests/fitting/test_offsets.py',
    'the mean that moves to the static field reaches beyond the face'),
  Mutation(
    'landmark_weights', 'exp_jax/fitting/offsets/energies.py',
    'jnp.sum(seen.weights * squared) / jnp.maximum(seen.weights.sum(), 1e-6)',
    'jnp.mean(squared)', 'tests/fitting/test_energies.py', 'landmarks count alike, trusted or not'),
  Mutation(
    'landmark_unit', 'exp_jax/fitting/offsets/energies.py', 'half = camera.image_size[0] / 2', 'half = camera.image_size[0]',
    'tests/fitting/test_energies.py', 'landmark errors in image heights instead of half heights'),
  Mutation(
    'depth_sign', 'exp_jax/fitting/offsets/energies.py', 'return scale, goal - scale * mean,',
    'return jnp.abs(scale), goal - jnp.abs(scale) * mean,', 'tests/fitting/test_energies.py',
    'disparity, which falls with the distance, cannot be aligned'),
  Mutation(
    'depth_spread', 'exp_jax/fitting/offsets/energies.py', '- target.depth) / spread, 0.5)', '- target.depth), 0.5)',
    'tests/fitting/test_energies.py', 'depth errors in the unit of the estimate'),
  Mutation(
    'trim_face', 'exp_jax/fitting/offsets/energies.py', 'jnp.where(face, alike > _TRIM_FACE,', 'jnp.where(face, alike < _TRIM_FACE,',
    'tests/fitting/test_energies.py', 'normals that agree are taken for occluders'),
  Mutation(
    'trust', 'exp_jax/fitting/coarse/residuals.py', 'return trust / (1 + squared * trust / scale ** 2 / _ROBUST ** 2) ** 2',
    'return 1 / (1 + squared / scale ** 2 / _ROBUST ** 2) ** 2',
    'tests/fitting/test_coarse.py::test_points_that_the_estimator_does_not_trust_do_not_count',
    'points without trust pull as the others'),
  Mutation(
    'camera_normals', 'exp_jax/rendering/shading.py', "jnp.einsum('ij,vj->vi', camera.rotation, vertex_normals",
    "jnp.einsum('ji,vj->vi', camera.rotation, vertex_normals", 'tests/rendering/test_shading.py',
    'normals turned by the inverse of the camera'),
  Mutation(
    'map_focal', 'exp_jax/controls/maps.py', 'focal=jnp.asarray(subject.focal, jnp.float32) * scale',
    'focal=jnp.asarray(subject.focal, jnp.float32)', 'tests/controls/test_maps.py::test_the_camera_scales_with_the_map',
    'focal length of maps of another size'),
  Mutation(
    'fade_side', 'exp_jax/controls/maps.py', 'smooth_step(distance, 0.0, width)', '1.0 - smooth_step(distance, 0.0, width)',
    'tests/controls/test_maps.py::test_maps_fade_toward_the_cut_through_the_chest', 'maps are black but at the cut'),
  Mutation(
    'distance_ratio', 'exp_jax/controls/reenact.py',
    'size(reference, own) / size(driving, theirs)', 'size(driving, theirs) / size(reference, own)', 'tests/controls/test_reenact.py',
    'ratio of distances inverted'),
  Mutation(
    'transfer_rest', 'exp_jax/systems/expportrait/transfer/network.py', 'self.out(hidden(driven) - hidden(rest))',
    'self.out(hidden(driven))',
    'tests/systems/expportrait/test_transfer.py::test_no_expression_means_no_offset_whatever_the_parameters',
    'transferred offsets of a face at rest are not subtracted'),
  Mutation(
    'transfer_units', 'exp_jax/systems/expportrait/transfer/network.py', '[expression / _PSI, jaw / _JAW]',
    '[expression / _JAW, jaw / _PSI]',
    'tests/systems/expportrait/test_transfer.py::test_the_transfer_that_ships_knows_wrinkles_of_people_it_has_not_seen',
    'scales of expression and jaw swapped'),
  Mutation(
    'transfer_mask', 'exp_jax/systems/expportrait/transfer/network.py', '_OFFSET * mask[:, None, :, None] * (free', '_OFFSET * (free',
    'tests/systems/expportrait/test_transfer.py::test_offsets_are_scaled_by_the_mask_of_the_skin',
    'transferred offsets are not masked'),
  Mutation(
    'transfer_area', 'exp_jax/systems/expportrait/transfer/network.py', "jnp.einsum('pk,bpc,p->bkc', patterns, fields, area)",
    "jnp.einsum('pk,bpc->bkc', patterns, fields) / len(area)", 'tests/systems/expportrait/test_transfer.py',
    'integrals over the skin by vertices instead of area'),
  Mutation(
    'mirrored_driving', 'exp_jax/systems/expportrait/transfer/network.py', 'np.asarray(jaw) * -across)', 'np.asarray(jaw) * across)',
    'tests/systems/expportrait/test_transfer.py::test_mirrored_driving_of_the_mirrored_person_is_the_mirrored_result',
    'jaw mirrored as a polar vector when driving'),
  Mutation(
    'mirrored_normals', 'exp_jax/data/transforms.py', '255 - value[..., 0], 0)', 'value[..., 0], 0)',
    'tests/data/test_sources.py', 'mirrored normals keep their x'),
  Mutation(
    'psnr_scale', 'exp_jax/metrics/image.py', '-10 * np.log10(error)', '-20 * np.log10(error)', 'tests/metrics/test_image.py',
    'PSNR of an amplitude'),
  Mutation(
    'ssim_covariance', 'exp_jax/metrics/image.py', '(2 * covariance + c2)', '(covariance + c2)', 'tests/metrics/test_image.py',
    'SSIM with half the covariance'),
  Mutation(
    'jitter_order', 'exp_jax/geometry/second_differences.py', 'values[2:] - 2 * values[1:-1] + values[:-2]',
    'values[2:] - values[:-2]', 'tests/metrics/test_steadiness.py', 'tremble is speed instead of acceleration'),
  Mutation(
    'filled_rows', 'exp_jax/networks/weights.py',
    'np.concatenate([array, np.zeros((shape[0] - array.shape[0], *shape[1:]), array.dtype)])',
    'np.concatenate([np.zeros((shape[0] - array.shape[0], *shape[1:]), array.dtype), array])',
    'tests/systems/expportrait/test_wan_road.py::test_weights_in_diffusers_names_are_trained_and_go_out_under_the_same_names',
    'given input channels behind the new ones'),
  Mutation(
    'place_of_the_motion', 'exp_jax/controls/maps.py', 'jnp.asarray(motion.translation[i]))', 'jnp.asarray(motion.translation[0]))',
    'tests/test_animate.py::test_a_picture_follows_a_motion_from_files_to_a_file', 'driven heads stay where the first frame is'),
  Mutation(
    'reference_turned_away', 'exp_jax/data/transforms.py', 'far = np.flatnonzero(away >= degrees)',
    'far = np.flatnonzero(away <= degrees)', 'tests/data/test_transforms.py', 'references that look like the first frame'),
  Mutation(
    'later_windows_cut', 'exp_jax/data/transforms.py', 'slice(time_stride * first, time_stride * first + num_frames)',
    'slice(first, first + num_frames)', 'tests/data/test_transforms.py', 'control maps of another time than the codes'),
  Mutation(
    'valid_is_the_least', 'exp_jax/data/transforms.py', 'reshape(T, H // sh, sh, W // sw, sw).min((2, 4))',
    'reshape(T, H // sh, sh, W // sw, sw).max((2, 4))', 'tests/data/test_transforms.py',
    'a code counts as real by one of its pixels'),
  Mutation(
    'lead_of_later_windows', 'exp_jax/systems/expportrait/records/windows.py', "codec.encode(_scaled(record['video'][frames])))[lead:]",
    "codec.encode(_scaled(record['video'][frames])))[:len(shown) // codec.strides[0] + 1]", 'tests/systems/expportrait/test_windows.py',
    'codes of the frames before a window in place of its own'),
  Mutation(
    'windows_cover_the_clip', 'exp_jax/systems/expportrait/records/windows.py', 'anchor = room * i / (count - 1) if count > 1',
    'anchor = 0 * i / (count - 1) if count > 1', 'tests/systems/expportrait/test_windows.py', 'all windows begin with the clip'),
  Mutation(
    'invented_pixels_masked', 'exp_jax/systems/expportrait/generator/dit_task.py', 'jnp.asarray(valid > 0, error.dtype)',
    'jnp.asarray(valid >= 0, error.dtype)', 'tests/systems/expportrait/test_dit_task.py::test_pixels_that_a_crop_invented_are_never_a_target',
    'invented pixels are targets'),
  Mutation(
    'invented_pixels_mean', 'exp_jax/systems/expportrait/generator/dit_task.py', 'jnp.maximum(kept.sum(axes) * error.shape[-1], 1.0)',
    'kept[0].size * error.shape[-1]', 'tests/systems/expportrait/test_dit_task.py::test_pixels_that_a_crop_invented_are_never_a_target',
    'masked clips count less'),
  Mutation(
    'turns_of_the_mirror_image', 'exp_jax/data/transforms.py', 'value * np.array([1, -1, -1], value.dtype)',
    'value * np.array([-1, 1, 1], value.dtype)', 'tests/data/test_transforms.py', 'rotations of mirror images'),
)  # fmt: skip
