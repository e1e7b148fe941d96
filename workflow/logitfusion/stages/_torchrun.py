"""torchrun for a stage that trains in several processes: it leases the GPUs for all of them."""

from torch.distributed.run import main

if __name__ == "__main__":  # importing the package has leased the GPUs, which its processes inherit
    main()
