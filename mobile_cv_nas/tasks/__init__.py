"""What is learnt: classification, detection, segmentation."""
