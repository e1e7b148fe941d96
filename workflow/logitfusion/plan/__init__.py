"""What a run will need before anything is downloaded: memory, disk, bytes to fetch and time, job by job."""
