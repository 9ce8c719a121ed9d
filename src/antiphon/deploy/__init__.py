"""What a deployment is made of, written out: an image, a compose file, Kubernetes manifests. Nothing is started."""
