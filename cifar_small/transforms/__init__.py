"""What is done to images: batched augmentation, library pipelines, mixing, preprocessing, views."""
