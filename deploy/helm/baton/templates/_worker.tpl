{{/* Takes (dict "root" $ "pool" POOL): what GPUs, RDMA devices and huge pages add to a worker's resources. */}}
{{- define "baton.workerResources" -}}
{{- $pool := .pool -}}
{{- $devices := dict -}}
{{- if $pool.gpu.count }}{{ $_ := set $devices $pool.gpu.resource (int $pool.gpu.count | toString) }}{{ end -}}
{{- if $pool.rdma.enabled }}{{ $_ := set $devices $pool.rdma.resource (int $pool.rdma.count | toString) }}{{ end -}}
{{- if $pool.hugepages.amount }}{{ $_ := set $devices (printf "hugepages-%s" $pool.hugepages.size) $pool.hugepages.amount }}{{ end -}}
requests: {{- merge (deepCopy $devices) ($pool.resources.requests | default dict) | toYaml | nindent 2 }}
limits: {{- merge (deepCopy $devices) ($pool.resources.limits | default dict) | toYaml | nindent 2 }}
{{- end -}}

{{/* Takes (dict "root" $ "pool" POOL): the pod template of a pool. */}}
{{- define "baton.workerPod" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $part := dict "root" $root "component" "worker" "pool" $pool -}}
metadata:
  labels: {{- include "baton.labels" $part | nindent 4 }}
  annotations:
    checksum/config: {{ include "baton.configSum" (dict "root" $root "file" $pool.name) }}
    {{- with $pool.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "baton.fullname" $root }}-worker
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ include "baton.workerGrace" $pool }}
  {{- with $pool.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext: {{- include "baton.podSecurity" $root | nindent 4 }}
  {{- include "baton.placement" (dict "root" $root "at" $pool) | nindent 2 }}
  {{- include "baton.topologySpread" (dict "labels" (include "baton.selector" $part) "list" $pool.topologySpread) | nindent 2 }}
  {{- include "baton.modelDownload" $root | nindent 2 }}
  containers:
    - name: worker
      image: {{ include "baton.image" (dict "root" $root "repository" $pool.repository "suffix" (printf "-%s" $pool.flavour)) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ $pool.role }}, --config, /etc/baton/baton.toml]
      env:
        - {name: HOME, value: /tmp}
        - {name: BATON_CACHE_DIR, value: /cache/baton}
        - {name: TRITON_CACHE_DIR, value: /cache/triton}
        # The control plane ends a worker by its pod's name, and the planner knows its kind by it.
        - name: BATON_WORKER_ID
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: BATON_ADVERTISE_HOST
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- include "baton.secretEnv" (dict "name" "BATON_CLUSTER_TOKEN" "secret" (include "baton.tokensSecret" $root) "key" "cluster-token") | nindent 8 }}
      ports:
        - {name: grpc, containerPort: 9000}
        - {name: fabric, containerPort: 9001}
        - {name: metrics, containerPort: 9100}
      # Nothing answers before the weights are loaded and the fabric listens.
      startupProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ div (add (int $pool.startupSeconds) 9) 10 }}
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if $pool.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ int $pool.preStopSeconds }}}
      {{- end }}
      resources: {{- include "baton.workerResources" . | nindent 8 }}
      securityContext: {{- include "baton.containerSecurity" (ternary (list "IPC_LOCK") list $pool.rdma.enabled) | nindent 8 }}
      volumeMounts:
        - {name: settings, mountPath: /etc/baton, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        - {name: cache, mountPath: /cache}
        - {name: shm, mountPath: /dev/shm}
        {{- if $pool.kvTlsSecret }}
        - {name: kv-tls, mountPath: /etc/baton-kv-tls, readOnly: true}
        {{- end }}
        {{- if $pool.hugepages.amount }}
        - {name: hugepages, mountPath: /hugepages}
        {{- end }}
        {{- include "baton.modelMount" $root | nindent 8 }}
        {{- with $pool.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap: {name: {{ $pool.fullname }}}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: cache
      emptyDir: {sizeLimit: {{ $pool.cacheSize }}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $pool.shmSize }}}
    {{- if $pool.kvTlsSecret }}
    - name: kv-tls
      secret: {secretName: {{ $pool.kvTlsSecret }}}
    {{- end }}
    {{- if $pool.hugepages.amount }}
    - name: hugepages
      emptyDir: {medium: HugePages-{{ $pool.hugepages.size }}}
    {{- end }}
    {{- include "baton.modelVolume" $root | nindent 4 }}
    {{- with $pool.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
