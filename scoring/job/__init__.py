"""One scoring job from request to published results."""
