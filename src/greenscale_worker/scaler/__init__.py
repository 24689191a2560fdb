"""KEDA's push scaler: tells KEDA how much work each queue has, and of a queue's first job at once."""
