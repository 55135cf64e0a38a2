"""lm-eval model classes that capture and steer routing. The only place that subclasses lm-eval's models."""
