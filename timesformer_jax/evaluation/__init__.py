"""How good a model is: several views of each video, their outputs averaged, every video counted once.

evaluate.py      `evaluate`: a checkpoint of any kind on a data set, resumably
prediction.py    the model's scores for a batch of videos
metrics.py       accuracies and confusion from the results of videos
recorder.py      the output directory
confusion.py     the confusion matrix as a picture
"""
