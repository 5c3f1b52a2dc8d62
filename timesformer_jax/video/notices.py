"""What reading a video warns of."""


class VideoWarning(UserWarning):
    """Something about a video that changes which frames are read, or how."""


class DamagedVideoWarning(VideoWarning):
    """Frames of a video could not be read. Their nearest neighbours stand in for them."""


class SeveralStreamsWarning(VideoWarning):
    """A file holds several video streams, and nobody said which is meant. The message names the one that is read."""


class ChangingSizeWarning(VideoWarning):
    """The pictures of a video change their size in mid-stream, and are wanted in one."""
