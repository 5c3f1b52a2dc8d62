"""Videos for training and evaluation, from lists to batches.

A list goes through lists/, sources (storage where it is a URL, shards where its videos are packed) and videos; a clip
through clips, augmentation, samples, pipeline and batches, and on the device through on_device.
"""
