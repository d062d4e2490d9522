"""How the estimator of face maps (`exp_jax.observe.maps.face_maps`) is trained, from synthetic
people alone."""
