# A clone can be had, and the reader has a document; nothing of ours is installed.
rm -f /usr/local/bin/tidegate /usr/local/bin/tidectl
git config --global url./opt/docs/tidegate.git.insteadOf https://git.example/tidegate
cp /opt/docs/petstore.yaml .
